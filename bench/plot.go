package main

import (
	"errors"
	"fmt"
	"math"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// panel is one curve: the cost of an admission against the number of keys, holders or
// rates.
type panel struct {
	of  string
	cpu plotter.XYs // microseconds
}

// drawGrowth writes the panels to an SVG file.
func drawGrowth(file string, panels []panel) error {
	var plots []*plot.Plot
	most := 1.0
	for _, p := range panels {
		for _, xy := range p.cpu {
			most = max(most, xy.Y)
		}
	}
	for i, p := range panels {
		pl := plot.New()
		pl.X.Label.Text = p.of
		var ticks plot.ConstantTicks
		for _, xy := range p.cpu {
			ticks = append(ticks, plot.Tick{Value: xy.X, Label: fmt.Sprint(xy.X)})
		}
		pl.X.Scale, pl.X.Tick.Marker = plot.LogScale{}, ticks
		pl.Y.Scale, pl.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
		if i == 0 {
			pl.Y.Label.Text = "CPU an admission, µs"
		}
		line, points, err := plotter.NewLinePoints(p.cpu)
		if err != nil {
			return err
		}
		points.Shape = draw.CircleGlyph{}
		pl.Add(plotter.NewGrid(), line, points)
		pl.Y.Min, pl.Y.Max = 1, math.Pow(10, math.Ceil(math.Log10(most)))
		plots = append(plots, pl)
	}
	img := vgsvg.New(24*vg.Centimeter, 8*vg.Centimeter)
	tiles := draw.Tiles{Rows: 1, Cols: len(plots), PadX: 5 * vg.Millimeter, PadTop: 2 * vg.Millimeter, PadRight: 3 * vg.Millimeter}
	for i, canvas := range plot.Align([][]*plot.Plot{plots}, tiles, draw.New(img))[0] {
		plots[i].Draw(canvas)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = img.WriteTo(f)
	return errors.Join(err, f.Close())
}

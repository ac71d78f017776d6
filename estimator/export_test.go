package estimator

// Tally holds everything that a Prompt says, for the tests in package
// estimator_test to compare.
type Tally struct {
	Texts  []string
	Tokens int64
	Output int64

	Messages, Names, Calls int64
	Functions              int64
	Objects, Properties    int64
	Enums, EnumItems       int64
	LowImages, Images      int64
}

// TallyOf returns the tally of a prompt.
func TallyOf(p Prompt) Tally {
	c := p.count
	return Tally{
		Texts: p.Texts, Tokens: c.TokenIDs, Output: p.Output,
		Messages: c.Messages, Names: c.Names, Calls: c.Calls,
		Functions: c.Functions, Objects: c.Objects, Properties: c.Properties,
		Enums: c.Enums, EnumItems: c.EnumItems, LowImages: c.LowImages, Images: c.Images,
	}
}

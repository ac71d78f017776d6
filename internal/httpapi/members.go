package httpapi

import (
	"encoding/json"
	"fmt"
	"strings"
)

// checkMembers returns an error if an object of b has two members of one name. Package
// json would take the last one, and a proxy that checks requests perhaps the first. b
// has to be valid JSON. Package json ignores the case of names, so checkMembers does.
func checkMembers(b []byte) error {
	var objects []map[string]bool // names in the open objects; nil for an array
	name := false                 // the next string is the name of a member
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{':
			objects, name = append(objects, make(map[string]bool)), true
		case '[':
			objects, name = append(objects, nil), false
		case '}', ']':
			objects, name = objects[:len(objects)-1], false
		case ',':
			name = objects[len(objects)-1] != nil
		case '"':
			end := endOfString(b, i)
			if name {
				if err := addMember(objects[len(objects)-1], b[i:end+1]); err != nil {
					return err
				}
			}
			i, name = end, false
		}
	}
	return nil
}

// endOfString returns the index of the quote that ends the string which begins at i.
func endOfString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i
}

// addMember adds a quoted name to the names of an object.
func addMember(names map[string]bool, quoted []byte) error {
	var name string
	if err := json.Unmarshal(quoted, &name); err != nil {
		return err
	}
	folded := strings.ToUpper(strings.ToLower(name))
	if names[folded] {
		return fmt.Errorf("member %.40q is there twice", name)
	}
	names[folded] = true
	return nil
}

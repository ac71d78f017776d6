package storetest

import "testing"

// Verdicts judges every rule and returns how each that is broken is broken.
func Verdicts(t *testing.T, h Harness) map[string]string {
	verdicts := make(map[string]string)
	for _, r := range rules {
		h.In(t, func(t *testing.T) {
			if broken := r.judge(t, h); broken != "" {
				verdicts[r.name] = broken
			}
		})
	}
	return verdicts
}

// RuleNames are the names of all rules.
func RuleNames() (names []string) {
	for _, r := range rules {
		names = append(names, r.name)
	}
	return names
}

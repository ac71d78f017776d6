package storetest

import "testing"

// Verdicts runs every rule that applies and returns the broken ones with the reason.
func Verdicts(t *testing.T, h Harness) map[string]string {
	verdicts := make(map[string]string)
	for _, r := range rules {
		if r.skip(h) != "" {
			continue
		}
		h.In(t, func(t *testing.T) {
			if broken := r.run(t, h); broken != "" {
				verdicts[r.name] = broken
			}
		})
	}
	return verdicts
}

// Skipped returns the rules that do not apply with the reason.
func Skipped(h Harness) map[string]string {
	skipped := make(map[string]string)
	for _, r := range rules {
		if why := r.skip(h); why != "" {
			skipped[r.name] = why
		}
	}
	return skipped
}

// RuleNames returns the names of all rules.
func RuleNames() (names []string) {
	for _, r := range rules {
		names = append(names, r.name)
	}
	return names
}

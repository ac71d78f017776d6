// Package integration tests choked with real processes: workers that are
// killed, paused, cut off from each other, and whose disks fail. In each test
// they write down what they admit, and in the end no window of time may have
// more than burst + rate · window.
//
// The tests need Linux. What else one needs and does not find it says when it
// is skipped; with CHOKED_REQUIRE_ALL=1 it fails instead.
package integration

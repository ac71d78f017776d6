// Package integration tests choked with real processes: workers are killed, paused
// and cut off from each other, and their disks fail. In each test the workers record
// the calls that they admit, and no window of time may have more than
// burst + rate · window.
//
// The tests need Linux. A test with further requirements is skipped where they are
// missing, and names them; with CHOKED_REQUIRE_ALL=1 it fails instead.
package integration

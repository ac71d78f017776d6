// Package fleet runs choked workers as processes, injects faults into them, and
// checks the bound against the calls that they admitted and against the Raft logs
// on their disks. It is for the tests and programs in integration, and needs Linux.
package fleet

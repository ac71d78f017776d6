// Package fleet runs workers as processes of their own, does to them what
// happens to processes, and checks what they have admitted and what their disks
// say was decided. It needs Linux.
package fleet

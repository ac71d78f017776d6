# Each target runs one command that can also be typed.

.PHONY: demo test bench ci more

# Three workers share one limit; the leader is killed meanwhile.
demo:
	go run ./cmd/demo

# Tests that need redis-server, python3 or root skip where these are missing.
test:
	go test ./...

# Measures choked and other limiters on this machine: about 40 minutes, with redis-server.
bench:
	cd bench && go run .

# The checks that every commit has to pass, as root: 15 minutes at most.
ci:
	.ci/run

# The long checks: fuzzing, storms and more random faults, as root: 90 minutes at most.
more:
	.ci/more

# Everything here is a command that can be typed as well.

.PHONY: demo test bench

demo:
	go run ./cmd/demo

test:
	go test ./...

# Beside other limiters, on this machine: some 40 minutes. Wants redis-server.
bench:
	cd bench && go run .

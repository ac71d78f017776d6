# Everything here is a command that can be typed as well.

.PHONY: demo test bench

demo:
	go run ./cmd/demo

test:
	go test ./...

# Beside other limiters, on this machine: some 15 minutes. Wants redis-server.
bench:
	mkdir -p docs
	cd bench && go run . -plot ../docs/growth.svg

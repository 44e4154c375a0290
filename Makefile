# What people type. `make demo` and `make test` need Rust alone: they install the rest from Debian, or say what to install.
.PHONY: demo test nix-matrix vm-test flake-check lint fmt bench

demo: ## watch a service break, be repaired and upgraded
	@scripts/setup.sh nix git
	cargo build --release --bins
	@cargo run --release --quiet --bin rei -- demo

test: ## the whole suite
	@scripts/setup.sh nix git python
	cargo test

nix-matrix: ## the end-to-end tests beside each Nix that Debian has, as root and as a plain user; SUITES, USERS, TESTS choose
	@scripts/setup.sh git mmdebstrap
	@scripts/nix-matrix.sh

lint: ## what CI wants besides the tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

flake-check: ## the flake and its checks, with a stand-in for nixpkgs; with nixpkgs in reach: nix flake check
	@scripts/setup.sh nix git
	scripts/flake-check.sh

vm-test: ## rei under a real systemd, in a small machine: ONLY=power chooses scenarios, SUITE=bookworm an older systemd
	@scripts/setup.sh qemu mmdebstrap
	cargo build --bins --example served
	tests/vm/run.sh --suite $(or $(SUITE),trixie) --only '$(ONLY)'

fmt: ## put the source in order
	cargo fmt

bench: ## rei and others side by side, in one run; see benches/README.md
	@scripts/setup.sh nix git python runit s6 wrk
	scripts/bench.sh

# The targets for people. `make demo` and `make test` need only Rust: they install the rest from Debian, or say what to install.
.PHONY: demo test corpus-live nix-matrix vm-test flake-check lint fmt bench

demo: ## watch a service break, be repaired and upgraded
	@scripts/setup.sh nix git
	cargo build --release --bins
	@cargo run --release --quiet --bin rei -- demo

test: ## run the whole test suite
	@scripts/setup.sh nix git python
	cargo test

corpus-live: ## judge bad and honest versions of a service under load, with each source of traffic
	@scripts/setup.sh nix git
	cargo test --test corpus -- --ignored --nocapture all_cases

nix-matrix: ## run the end-to-end tests with each Nix version of Debian, as root and as a plain user; SUITES, USERS, TESTS choose
	@scripts/setup.sh git mmdebstrap
	@scripts/nix-matrix.sh

lint: ## run the checks of CI besides the tests
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

flake-check: ## check the flake with a stand-in for nixpkgs; if nixpkgs can be fetched: nix flake check
	@scripts/setup.sh nix git
	scripts/flake-check.sh

vm-test: ## run rei under a real systemd, in a virtual machine: ONLY=power chooses scenarios, SUITE=bookworm an older systemd
	@scripts/setup.sh qemu mmdebstrap
	cargo build --bins --example served
	tests/vm/run.sh --suite $(or $(SUITE),trixie) --only '$(ONLY)'

fmt: ## format the source
	cargo fmt

bench: ## measure rei and other supervisors side by side, in one run; see benches/README.md
	@scripts/setup.sh nix git python runit s6 wrk
	scripts/bench.sh

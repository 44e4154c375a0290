#!/bin/sh
# Measures rei and its peers side by side; `make bench` calls it. Arguments name chapters: crash, rollback, steady, logger,
# evolution. Peers that are not installed are reported and left out.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --bin rei --example bench-child
exec cargo bench --bench figures -- "$@"

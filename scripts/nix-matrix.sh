#!/usr/bin/env bash
# Runs the end-to-end tests with each Nix version of Debian, as root without a daemon and as a plain user through the daemon.
#
# `make nix-matrix` calls it. SUITES, USERS and TESTS choose a part; REI_KILLS is the number of kills in tests/evolution/kills.rs.
# The results are in target/nix-matrix: a log of each cell, and table.md with all cells that have a log.
set -euo pipefail
cd "$(dirname "$0")/.."

SUITES=${SUITES:-bookworm trixie sid}
USERS=${USERS:-root tester}
TESTS=${TESTS:-evolution nix source judge bad_input demo}
# The usual suite kills the supervisor more often. The supervisor is the same with each Nix version, so few kills are enough here.
REI_KILLS=${REI_KILLS:-10}
# A cell takes minutes; a cell that takes longer hangs.
CELL_TIMEOUT=30m
# A test that is slow only because of other work on the machine shows no fault.
PRIORITY=-10
LOGS=target/nix-matrix

# Builds each test and prints "NAME PROGRAM" for it.
programs() {
    local wanted=() name
    for name in $TESTS; do wanted+=(--test "$name"); done
    cargo build --examples
    cargo test --no-run --message-format=json "${wanted[@]}" |
        sed -n 's/.*"kind":\["test"\].*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p'
}

run_cell() {
    local suite=$1 user=$2 name=$3 program=$4 threads=2
    # The tests of nix collect garbage, and all tests share one store.
    [ "$name" != nix ] || threads=1
    nice -n "$PRIORITY" timeout --kill-after=30s "$CELL_TIMEOUT" scripts/nix-root.sh "$suite" "$user" env \
        REI_TEST_STORE=machine "REI_KILLS=$REI_KILLS" sh -c 'nix --version; exec "$@"' sh \
        "$program" --show-output --test-threads "$threads" >"$LOGS/$suite-$user-$name.log" 2>&1
}

# Prints "21 passed, 1 skipped" for a log. libtest counts a skipped test as passed.
count() {
    awk '/^---- .* stdout ----$/ { told = 0 }
         /SKIPPED/ && !told { told = 1; skipped++ }
         /^test result: / { ended = 1; passed = $4; failed = $6 }
         END {
             if (!ended) { print "**did not end**"; exit }
             printf "%d passed", passed - skipped
             if (skipped) printf ", %d skipped", skipped
             if (failed) printf ", **%d failed**", failed
         }' "$1"
}

# Prints all cells that have a log, as Markdown.
table() {
    local suite user name log version cells
    echo "| Nix | as | evolution | nix | judge | bad_input | demo |"
    echo "|---|---|---|---|---|---|---|"
    for suite in bookworm trixie sid; do
        for user in root tester; do
            version= cells=
            for name in evolution nix judge bad_input demo; do
                log=$LOGS/$suite-$user-$name.log
                if [ -f "$log" ]; then
                    version=$(sed -n 's/^nix (Nix) //p;T;q' "$log")
                    cells+=" $(count "$log") |"
                else
                    cells+=" not run |"
                fi
            done
            [ -z "$version" ] || case $user in
                root) echo "| $version ($suite) | root, no daemon |$cells" ;;
                *) echo "| $version ($suite) | plain user, daemon |$cells" ;;
            esac
        done
    done
}

mkdir -p "$LOGS"
built=$(programs)
code=0
for suite in $SUITES; do
    for user in $USERS; do
        while read -r name program; do
            run_cell "$suite" "$user" "$name" "$program" </dev/null || code=1
            echo "$suite $user $name: $(count "$LOGS/$suite-$user-$name.log")"
        done <<<"$built"
    done
done
table >"$LOGS/table.md"
cat "$LOGS/table.md"
[ $code = 0 ] || echo "error: some tests failed; the logs are in $LOGS" >&2
exit $code

#!/usr/bin/env bash
# `nix flake check` of rei's own flake on a machine that cannot fetch nixpkgs. checks/offline replaces nixpkgs, with the crates of
# Cargo.lock and the compiler of this machine. Evaluation, sandbox and builds are the usual ones.
#
# Checks that need NixOS itself cannot run here; the script names them at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

LEFT_OUT="format module vm"

case $(id -u) in
    0) ;;
    *) echo "error: only root or a trusted user may give the compiler to Nix's sandbox" >&2
       echo "hint: if this machine can fetch nixpkgs, no compiler is needed: nix flake check" >&2
       exit 1 ;;
esac

crates=$PWD/target/crates
echo "crates of Cargo.lock: $crates" >&2
cargo vendor --quiet --locked "$crates" >/dev/null

nix() {
    local paths="/bin /usr /lib /etc/alternatives? /toolchain=$(rustc --print sysroot) /crates=$crates"
    [ ! -e /lib64 ] || paths="$paths /lib64"
    command nix --extra-experimental-features "nix-command flakes" "$@" \
        --override-input nixpkgs "path:$PWD/checks/offline" --no-write-lock-file \
        --option sandbox true --option sandbox-fallback false --option sandbox-paths "$paths" \
        --option substitute false
}

system=$(command nix --extra-experimental-features nix-command eval --raw --impure --expr builtins.currentSystem)
nix flake check --print-build-logs "$@"

names=$(nix eval --json ".#checks.$system" --apply builtins.attrNames)
echo "checked: $names" >&2
for name in $LEFT_OUT; do
    case $names in
        *"\"$name\""*) echo "error: LEFT_OUT names the check $name, but it was not left out" >&2; exit 1 ;;
    esac
done
echo "left out, because they need NixOS or its formatter from nixpkgs: $LEFT_OUT" >&2

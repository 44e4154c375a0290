# Builds one derivation of packages.nix, in Nix's sandbox. scripts/flake-check.sh adds paths of the machine to the sandbox: /usr,
# /bin, /lib, the toolchain as /toolchain and the crates of Cargo.lock as /crates.
set -euo pipefail
export PATH=/toolchain/bin:/usr/bin:/bin HOME=$NIX_BUILD_TOP CARGO_HOME=$NIX_BUILD_TOP/cargo

runHook() { :; }

# Like makeBinaryWrapper's, with only the options that are used here.
makeWrapper() {
    local program=$1 wrapper=$2 suffix=
    shift 2
    while [ $# -gt 0 ]; do
        case $1 in
            --inherit-argv0) shift ;;
            --suffix) suffix=$4; shift 4 ;;
            *) echo "makeWrapper: unknown: $1" >&2; exit 1 ;;
        esac
    done
    mkdir -p "$(dirname "$wrapper")"
    printf '#!/bin/bash\nPATH=$PATH:%s exec -a "$0" %s "$@"\n' "$suffix" "$program" > "$wrapper"
    chmod +x "$wrapper"
}

if [ -n "${buildCommand:-}" ]; then
    eval "$buildCommand"
    exit
fi

mkdir -p "$CARGO_HOME"
cat > "$CARGO_HOME/config.toml" <<CONFIG
[source.crates-io]
replace-with = "crates"
[source.crates]
directory = "/crates"
CONFIG

cp -r "$src" "$NIX_BUILD_TOP/source"
chmod -R u+w "$NIX_BUILD_TOP/source"
cd "$NIX_BUILD_TOP/source"

# Turns a build type of the derivation into the name of a cargo profile.
profile() { [ "$1" = debug ] && echo dev || echo "$1"; }
cargo_build() { cargo build --offline --locked --profile "$(profile "$buildType")" --target "$target" -j "$NIX_BUILD_CORES"; }
cargo_check() {
    # shellcheck disable=SC2086 # several words are meant
    cargo test --offline --locked --profile "$(profile "${cargoCheckType:-$buildType}")" --target "$target" \
        -j "$NIX_BUILD_CORES" ${cargoTestFlags:-} -- ${checkFlags:-}
}
install_bins() {
    mkdir -p "$out/bin"
    find "target/$target/$([ "$buildType" = debug ] && echo debug || echo "$buildType")" -maxdepth 1 -type f -executable \
        -exec cp -t "$out/bin" {} +
}

[ -n "${dontCargoBuild:-}" ] || if [ -n "${buildPhase:-}" ]; then eval "$buildPhase"; else cargo_build; fi
if [ -n "${doCheck:-}" ]; then cargo_check; fi
if [ -n "${installPhase:-}" ]; then eval "$installPhase"; else install_bins; fi
if [ -n "${doInstallCheck:-}" ]; then eval "$installCheckPhase"; fi

# rei itself: one static program and nothing around it, as it is also the builder of the sandboxed checks, where there is
# no dynamic linker and nothing but its own closure.
{
  lib,
  glibc,
  rustPlatform,
}:
let
  # cargo is called with --target, so these flags reach the program alone: build scripts and procedural macros stay with
  # the shared C library, which static archives ahead of it in buildInputs could break. They stand in for
  # .cargo/config.toml, which says the same to cargo outside Nix.
  RUSTFLAGS = toString [
    "-C target-feature=+crt-static"
    "-L native=${lib.getOutput "static" glibc}/lib"
  ];
  manifest = lib.importTOML ../Cargo.toml;
  # What the program and its tests are made of: a change of other pages or Nix files builds nothing anew.
  source = lib.fileset.unions [
    ../Cargo.toml
    ../Cargo.lock
    ../src
    ../checks/default.nix
    ../checks/plan.nix
    ../modules/unit.toml
    ../modules/settings.nix # which types a key can have
    ../docs/options.md # made from src/config/options.toml
    ../interface
    ../examples
    ../templates
    ../tests
    (lib.fileset.maybeMissing ../benches)
  ];
in
rustPlatform.buildRustPackage {
  pname = "rei";
  inherit (manifest.package) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = source;
  };
  cargoLock.lockFile = ../Cargo.lock;

  env = { inherit RUSTFLAGS; };
  passthru = { inherit RUSTFLAGS; };

  # `checks.tests` runs them; `nix run` need not wait.
  doCheck = false;

  # The kernel starts a static program without an interpreter: a program header for one means that the flags were lost.
  doInstallCheck = true;
  installCheckPhase = ''
    runHook preInstallCheck
    if readelf --program-headers "$out/bin/rei" | grep -q INTERP; then
      echo "rei is not linked statically" >&2
      exit 1
    fi
    "$out/bin/rei" --version
    runHook postInstallCheck
  '';

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.mit;
    mainProgram = "rei";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}

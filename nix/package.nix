# rei itself: one static program without a wrapper. It is also the builder of the sandboxed checks, and their sandbox has no
# dynamic linker and only the program's own closure.
{
  lib,
  glibc,
  rustPlatform,
}:
let
  # cargo is called with --target, so these flags apply only to the program. Build scripts and procedural macros use the shared C
  # library; static archives in buildInputs could come before it and break them. Outside Nix, .cargo/config.toml has the same
  # flags.
  RUSTFLAGS = toString [
    "-C target-feature=+crt-static"
    "-L native=${lib.getOutput "static" glibc}/lib"
  ];
  manifest = lib.importTOML ../Cargo.toml;
  # The files that the program and its tests are built from: a change of other pages or Nix files causes no new build.
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

  # `checks.tests` runs the tests, so that `nix run` need not wait for them.
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

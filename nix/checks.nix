# The checks that `nix flake check` builds. A check of more than a few lines has its own file.
{
  nixpkgs,
  pkgs,
  rei,
  rei-unwrapped,
  module,
  sandboxed, # the expressions of checks/, with rei as their builder
}:
let
  # The same source with other build phases, compiled without the release profile.
  instead =
    name: change:
    rei-unwrapped.overrideAttrs (
      old:
      {
        pname = "rei-${name}";
        cargoCheckType = "debug";
        doInstallCheck = false;
        installPhase = "mkdir $out";
      }
      // change old
    );
in
{
  inherit rei;

  # The model check of the lifecycle: every reachable state of bounded worlds, and random histories.
  lifecycle = instead "lifecycle" (_: {
    dontCargoBuild = true;
    doCheck = true;
    cargoTestFlags = [ "--test=lifecycle" ];
  });

  # The pure modules. Tests that need the kernel, a Nix store or a network run in `make test`: inside a build sandbox they would
  # only be skipped.
  tests = instead "tests" (_: {
    dontCargoBuild = true;
    doCheck = true;
    cargoTestFlags = [ "--lib" ];
    checkFlags = [
      "lifecycle::"
      "health::"
      "config::"
      "interface::"
      "journal::"
      "golden::"
    ];
  });

  lint = instead "lint" (old: {
    nativeBuildInputs = old.nativeBuildInputs ++ [
      pkgs.clippy
      pkgs.rustfmt
    ];
    buildPhase = ''
      cargo fmt --check -- --config-path ${../rustfmt.toml}
      cargo clippy --offline --all-targets --target ${pkgs.stdenv.hostPlatform.rust.rustcTarget} -- --deny warnings
    '';
  });

  # A build, its tests and the judge's verdicts, without a supervisor.
  judged = import ./tests/judged.nix { inherit pkgs rei-unwrapped sandboxed; };
}
# checks/offline stands in for nixpkgs and has neither NixOS nor its formatter.
// nixpkgs.lib.optionalAttrs (nixpkgs.lib ? nixosSystem) {
  # Passes if `nix fmt` would change no file.
  format =
    pkgs.runCommand "rei-nix-format"
      {
        nativeBuildInputs = [ pkgs.nixfmt ];
        src = nixpkgs.lib.fileset.toSource {
          root = ../.;
          fileset = nixpkgs.lib.fileset.fileFilter (file: file.hasExt "nix") ../.;
        };
      }
      ''
        find "$src" -name '*.nix' -exec nixfmt --check {} +
        touch "$out"
      '';
  module = import ./tests/module.nix { inherit nixpkgs pkgs module; };
  vm = import ./tests/vm.nix { inherit pkgs module; };
}

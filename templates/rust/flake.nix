{
  description = "A small service in Rust, for rei";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      each = f: nixpkgs.lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "greeter";
          version = "0.1.0";
          src = ./.;
          cargoLock.lockFile = ./Cargo.lock;
          meta.mainProgram = "greeter";
        };
      });

      # A candidate must have every check of Active's flake, and pass each of them.
      checks = each (pkgs: {
        # The build runs `cargo test`.
        unit = self.packages.${pkgs.stdenv.hostPlatform.system}.default;
      });
    };
}

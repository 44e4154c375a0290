{
  description = "rei, the OpenExec supervisor: keeps one service alive, repairs and upgrades it";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forEach = make: lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEach (pkgs: rec {
        rei-unwrapped = pkgs.callPackage ./nix/package.nix { };
        rei = pkgs.callPackage ./nix/wrapper.nix { inherit rei-unwrapped; };
        default = rei;
      });

      apps = lib.mapAttrs (_: packages: rec {
        rei = {
          type = "app";
          program = lib.getExe packages.rei;
          meta.description = "The OpenExec supervisor";
        };
        default = rei;
      }) self.packages;

      # `services.rei.instances.<name>`. The module needs no flake; this sets the package.
      nixosModules = rec {
        rei =
          { lib, pkgs, ... }:
          {
            imports = [ ./modules/rei.nix ];
            services.rei.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.rei;
          };
        default = rei;
      };

      templates = import ./templates;

      overlays.default = final: _: {
        rei-unwrapped = final.callPackage ./nix/package.nix { };
        rei = final.callPackage ./nix/wrapper.nix { };
      };

      # The sandboxed checks, for projects that use them in their own flake:
      # `(rei.lib.checksFor "x86_64-linux").boot { spec = …; candidate = self.packages.x86_64-linux.default; }`.
      lib = {
        checks = import ./checks;
        checksFor =
          system:
          self.lib.checks {
            inherit system;
            rei = lib.getExe self.packages.${system}.rei-unwrapped;
          };
      };

      checks = forEach (
        pkgs:
        import ./nix/checks.nix {
          inherit nixpkgs pkgs;
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) rei rei-unwrapped;
          module = self.nixosModules.rei;
          sandboxed = self.lib.checksFor pkgs.stdenv.hostPlatform.system;
        }
      );

      devShells = forEach (pkgs: {
        default = import ./nix/shell.nix {
          inherit pkgs;
          inherit (self.packages.${pkgs.stdenv.hostPlatform.system}) rei-unwrapped;
        };
      });

      formatter = forEach (pkgs: pkgs.nixfmt-tree);
    };
}

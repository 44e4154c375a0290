{
  description = "A small service in shell, for rei";

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
        default = pkgs.writeShellApplication {
          name = "greeter";
          runtimeInputs = [ pkgs.socat ];
          text = builtins.readFile ./greeter.sh;
        };
      });

      # A candidate must have every check of Active's flake, and pass each of them.
      checks = each (pkgs: {
        unit = pkgs.runCommand "greeter-unit" { } ''
          ${pkgs.runtimeShell} ${./test.sh} ${
            pkgs.lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.default
          }
          touch $out
        '';
      });
    };
}

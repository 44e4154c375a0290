{
  description = "A small service to try rei with";

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
        default = pkgs.runCommand "notes" { } ''
          install -Dm755 ${./notes.py} $out/bin/notes
          sed -i '1i #!${pkgs.python3.interpreter}' $out/bin/notes
        '';
      });

      # A candidate must have every check of Active's flake, and pass each of them.
      checks = each (pkgs: {
        unit = pkgs.runCommand "notes-unit" { } ''
          cd ${./.}
          PYTHONDONTWRITEBYTECODE=1 ${pkgs.python3.interpreter} -m unittest test_notes
          touch $out
        '';
      });
    };
}

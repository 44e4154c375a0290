# The systemd service of one instance, from unit.toml, which other distributions use too.
{ lib }:
{
  name,
  user,
  operators,
  # Paths of the program and its configuration that stay the same while their store paths change: a reload finds the new ones.
  rei,
  config,
}:
let
  words = {
    inherit
      name
      user
      operators
      rei
      config
      ;
  };
  text = builtins.replaceStrings (map (word: "@${word}@") (
    lib.attrNames words
  )) (lib.attrValues words) (builtins.readFile ./unit.toml);
  unit = builtins.fromTOML text;
  # NixOS merges these with what other modules add to the unit.
  options = [
    "After"
    "Description"
    "Wants"
  ];
in
{
  description = unit.Unit.Description;
  after = lib.toList unit.Unit.After;
  wants = lib.toList unit.Unit.Wants;
  unitConfig = removeAttrs unit.Unit options;
  # mkDefault, because an administrator's own setting has priority.
  wantedBy = lib.toList unit.Install.WantedBy;
  serviceConfig = lib.mapAttrs (_: lib.mkDefault) unit.Service;
}

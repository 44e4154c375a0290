# The systemd service of one instance, from unit.toml, which is written for other distributions as well.
{ lib }:
{
  name,
  user,
  operators,
  # What stands for the program and its configuration while their store paths change: a reload finds the new ones there.
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
  # An administrator's word counts more.
  wantedBy = lib.toList unit.Install.WantedBy;
  serviceConfig = lib.mapAttrs (_: lib.mkDefault) unit.Service;
}

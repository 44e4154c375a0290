# Parses a listener `name=address` for the module: the firewall needs the ports, and two instances must not share an address.
{ lib }:
let
  internet = builtins.match "([A-Za-z0-9_-]+)=(udp:)?(\\[[0-9A-Fa-f:.]+]|[0-9.]+|localhost):([0-9]{1,5})";
  unix = builtins.match "([A-Za-z0-9_-]+)=unix:(/.+)";
  wildcards = [
    "0.0.0.0"
    "[::]"
  ];
in
rec {
  # null if the text is malformed.
  parse =
    text:
    let
      address = internet text;
      path = unix text;
      part = builtins.elemAt address;
      port = lib.toIntBase10 (part 3);
    in
    if path != null then
      {
        kind = "unix";
        path = builtins.elemAt path 1;
      }
    else if address == null || port == 0 || port > 65535 then
      null
    else
      {
        kind = if part 1 == null then "tcp" else "udp";
        host = if part 2 == "localhost" then "127.0.0.1" else part 2;
        inherit port;
      };

  all = texts: lib.filter (listener: listener != null) (map parse texts);

  # The ports of one kind that other machines can reach.
  openPorts =
    kind: texts:
    let
      isLocal = host: lib.hasPrefix "127." host || host == "[::1]";
    in
    map (listener: listener.port) (
      lib.filter (listener: listener.kind == kind && !isLocal listener.host) (all texts)
    );

  # Whether two sockets cannot be open at the same time.
  collide =
    a: b:
    a.kind == b.kind
    && (
      if a.kind == "unix" then
        a.path == b.path
      else
        a.port == b.port && (a.host == b.host || lib.elem a.host wildcards || lib.elem b.host wildcards)
    );

  show =
    listener:
    if listener.kind == "unix" then
      listener.path
    else
      "${lib.optionalString (listener.kind == "udp") "udp:"}${listener.host}:${toString listener.port}";
}

# What the module must know about a listener `name=address` before rei reads it: ports for the firewall, and who else is there.
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
  # null where it is malformed.
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

  # The ports of one kind that others than this machine can reach.
  openPorts =
    kind: texts:
    let
      isLocal = host: lib.hasPrefix "127." host || host == "[::1]";
    in
    map (listener: listener.port) (
      lib.filter (listener: listener.kind == kind && !isLocal listener.host) (all texts)
    );

  # Whether two sockets could not both be opened.
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

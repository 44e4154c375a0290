# Refuses wrong configurations when the system is evaluated; each message says what to do. rei itself reports mistakes inside
# rei.toml: it checks the file when the system is built.
{ lib, config }:
let
  cfg = config.services.rei;
  enabled = lib.filterAttrs (_: instance: instance.enable) cfg.instances;
  listen = import ./listen.nix { inherit lib; };
  listenersOf = instance: listen.all instance.settings.runtime.listen;
  at = name: "services.rei.instances.${name}";
  claim = assertion: message: { inherit assertion message; };

  # Each pair of instances once.
  pairs = lib.concatLists (
    lib.imap0 (
      i: one: map (other: { inherit one other; }) (lib.drop (i + 1) (lib.attrsToList enabled))
    ) (lib.attrsToList enabled)
  );

  together =
    { one, other }:
    let
      state = instance: instance.value.settings.state;
      inside = a: b: a == b || lib.hasPrefix "${a}/" b;
      overlap =
        key:
        inside (state one).${key} (state other).${key} || inside (state other).${key} (state one).${key};
      collisions = lib.concatMap (
        mine: map (theirs: listen.show mine) (lib.filter (listen.collide mine) (listenersOf other.value))
      ) (listenersOf one.value);
    in
    [
      (claim (collisions == [ ])
        "${at one.name} and ${at other.name} both listen on ${lib.concatStringsSep ", " collisions}: give one of them another address in settings.runtime.listen."
      )
      (claim (!overlap "directory")
        "${at one.name} and ${at other.name} share the state directory ${(state one).directory}: leave settings.state.directory out, or give each its own directory."
      )
      (claim (!overlap "sockets")
        "${at one.name} and ${at other.name} share ${(state one).sockets} for their sockets: leave settings.state.sockets out, or give each its own directory."
      )
      (claim (one.value.user != other.value.user)
        "${at one.name} and ${at other.name} run as the same user ${one.value.user}, so they could reach each other's processes and files: leave `user` out, or give each its own user."
      )
    ];

  alone =
    name: instance:
    let
      inherit (instance) settings;
      service = config.systemd.services."rei-${name}".serviceConfig;
      malformed = lib.filter (text: listen.parse text == null) settings.runtime.listen;
      listeners = listenersOf instance;
      firstPort = config.boot.kernel.sysctl."net.ipv4.ip_unprivileged_port_start" or 1024;
      privileged = map listen.show (lib.filter (l: l.kind != "unix" && l.port < firstPort) listeners);
      writable = [
        settings.state.sockets
        settings.state.directory
      ]
      ++ lib.toList (service.ReadWritePaths or [ ]);
      isBelow = path: directory: lib.hasPrefix "${directory}/" path;
      unreachable = lib.filter (l: l.kind == "unix" && !lib.any (isBelow l.path) writable) listeners;
      isUrl = lib.hasInfix ":" settings.runtime.source;
      homes = [
        "/home"
        "/root"
        "/run/user"
      ];
      hidden =
        lib.any (isBelow settings.runtime.source) homes
        && lib.elem service.ProtectHome [
          true
          "yes"
          "tmpfs"
        ];
      inStore = lib.attrNames (
        lib.filterAttrs (
          _: credential: !lib.hasPrefix "/" credential.file || lib.hasPrefix builtins.storeDir credential.file
        ) instance.credentials
      );
      readers = lib.concatMap (credential: credential.agents) (lib.attrValues instance.credentials);
      strangers = lib.filter (agent: (settings.agents.${agent}.command or [ ]) == [ ]) readers;
    in
    [
      (claim
        (builtins.match "[A-Za-z_][A-Za-z0-9_-]*" name != null && lib.stringLength "rei-${name}" <= 31)
        "${at name}: this cannot be the name of a unit and a user: use letters, digits, - and _, at most 27 characters."
      )
      (claim (malformed == [ ])
        "${at name}.settings.runtime.listen: ${
          lib.concatStringsSep ", " (map (text: ''"${text}"'') malformed)
        }: write name=address, as in \"http=127.0.0.1:8080\", \"dns=udp:[::]:53\" or \"ipc=unix:${settings.state.sockets}/ipc.sock\"."
      )
      (claim (privileged == [ ] || instance.privilegedPorts)
        "${at name} listens on ${lib.concatStringsSep ", " privileged}, which needs a capability: set ${at name}.privilegedPorts = true, or use port ${toString firstPort} or higher."
      )
      (claim (unreachable == [ ])
        "${at name} cannot make ${
          lib.concatMapStringsSep ", " listen.show unreachable
        }: put it below ${settings.state.sockets}, or add its directory to systemd.services.rei-${name}.serviceConfig.ReadWritePaths."
      )
      (claim (isUrl || lib.hasPrefix "/" settings.runtime.source)
        "${at name}.settings.runtime.source = \"${settings.runtime.source}\" must be an absolute path or a URL: a relative path has no base directory here."
      )
      (claim (!hidden)
        "${at name}.settings.runtime.source is ${settings.runtime.source}, which the unit cannot read: move it (for example to /srv), or set systemd.services.rei-${name}.serviceConfig.ProtectHome = \"read-only\"."
      )
      (claim (!(settings.isolation ? user))
        "${at name}.settings.isolation.user cannot be set: rei is not root here, so instances run as the unit's user. Set ${at name}.user instead."
      )
      (claim (inStore == [ ])
        "${at name}.credentials: ${lib.concatStringsSep ", " inStore}: `file` must be an absolute path outside the store, because every user can read the store. Write it as a string: \"/etc/secrets/NAME\"."
      )
      (claim (strangers == [ ])
        "${at name}.credentials name ${lib.concatStringsSep ", " (lib.unique strangers)}, which is not in settings.agents: use the name of an agent from there."
      )
    ];

  nix =
    let
      inherit (config.nix) settings package;
      allowed = settings.allowed-users or [ "*" ];
      isAllowed =
        instance:
        lib.any (who: lib.elem who allowed) [
          "*"
          instance.user
          "@${instance.group}"
        ];
      refused = lib.attrNames (lib.filterAttrs (_: instance: !isAllowed instance) enabled);
    in
    [
      (claim config.nix.enable "services.rei builds every candidate with Nix: set nix.enable = true.")
      (claim (lib.versionAtLeast package.version "2.8") "services.rei needs Nix 2.8 or newer, but nix.package is ${package.version}: leave nix.package out, or use a newer one.")
      (claim
        (lib.elem (settings.sandbox or true) [
          true
          "relaxed"
        ])
        "services.rei judges candidates in Nix's sandbox: leave nix.settings.sandbox out, or set it to true."
      )
      (claim (refused == [ ])
        "The Nix daemon would refuse the users of ${lib.concatStringsSep ", " refused}: add ${
          lib.concatMapStringsSep ", " (name: ''"${enabled.${name}.user}"'') refused
        } to nix.settings.allowed-users."
      )
    ];
in
{
  assertions =
    lib.optionals (enabled != { }) nix
    ++ lib.concatLists (lib.mapAttrsToList alone enabled)
    ++ lib.concatMap together pairs;

  warnings =
    let
      features = lib.toList (config.nix.settings.experimental-features or [ ]);
      flakes = lib.any (lib.hasInfix "flakes") (features ++ [ config.nix.extraOptions ]);
    in
    lib.optional (enabled != { } && !flakes) ''
      services.rei builds flakes, but this system's Nix has them off. rei turns them on for its own calls. The people who
      maintain the runtime need them too: nix.settings.experimental-features = [ "nix-command" "flakes" ];
    ''
    ++ lib.optional (enabled != { } && !config.security.allowUserNamespaces) ''
      services.rei: without user namespaces only Landlock confines agents, and they can use the network: leave
      security.allowUserNamespaces out.
    '';
}

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "main", worker = .agent),
    (name = "internet", network = (allow = ["public", "private", "local"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);

const agent :Workerd.Worker = (
  modules = [(name = "agent.js", esModule = embed "../build/bundles/agent.workerd.js")],
  compatibilityDate = "2026-10-20",
);

# One image for hosts (berth serve) and gateways (berth gateway). docs/deploy.md says how each is run.
#   docker build -t berth .
# Debian 13 has every program that a host needs in a version that is young enough: gVisor, mkfs.erofs and gztool among them.

# ---- built with a compiler, which the image does not keep
FROM node:24.11.1-trixie-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ make python3 libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/berth
COPY package.json package-lock.json ./
# npm brings the Node that Berth runs on (node-linux-*); what is compiled finds that one's headers, without the network.
RUN npm_config_nodedir="$PWD/node_modules/node-linux-$(node -p process.arch)" npm ci --no-audit --no-fund
COPY bin bin
COPY libexec libexec
COPY native native
COPY proto proto
COPY scripts scripts
COPY src src
COPY deploy/container deploy/container
COPY LICENSE tsconfig.json ./
# What works inside sandboxes, and the console; then what only building needed goes.
RUN bin/node24 scripts/build.ts --quiet \
 && npm prune --omit=dev --ignore-scripts --no-audit --no-fund \
 && rm -rf scripts native src/ui node_modules/.cache

# ---- what is shipped
FROM debian:13.2-slim
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      ca-certificates curl \
      runsc conmon tini catatonit busybox-static \
      nftables libnftables1 iproute2 conntrack \
      fuse3 erofs-utils gztool umoci e2fsprogs mount util-linux \
 && rm -rf /var/lib/apt/lists/* \
 # Gateways run as this user; a host needs root.
 && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin berth \
 && install -d -m 0711 /var/lib/berth
COPY --from=build /opt/berth /opt/berth
RUN ln -s /opt/berth/bin/berth /usr/local/bin/berth
# A container is reached from outside it: whoever runs it decides which of these are published.
ENV BERTH_LISTEN=0.0.0.0:7070 \
    BERTH_GATEWAY_LISTEN=0.0.0.0:7080 \
    BERTH_GATEWAY_GRPC_LISTEN=0.0.0.0:7081
EXPOSE 7070 7080 7081
VOLUME /var/lib/berth
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/opt/berth/deploy/container/healthcheck"]
# catatonit reaps what outlives who started it, such as monitors of sandboxes after a crash of the daemon, and passes signals on.
ENTRYPOINT ["catatonit", "--", "/opt/berth/deploy/container/entrypoint"]
CMD ["serve"]

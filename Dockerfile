# BASE: any image of Debian 12. hack/image makes one where no image registry is reachable.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS base
# Node.js needs libatomic1.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libatomic1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

# Node.js and the npm packages are those that hack/run or hack/test installed in the checkout. Where they are
# missing, old or for another processor, Debian's npm fetches them. Packages for development are left out.
FROM base AS modules
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY hack/node hack/node
# The pattern, and a file that is always there, let the folder be absent.
COPY package.json node_module[s] node_modules/
RUN if ! hack/node/node_modules/node-linux-*/bin/node --version \
    || ! sha256sum <package-lock.json | cmp - node_modules/.installed; then \
      apt-get update \
   && apt-get install -y --no-install-recommends npm \
   && npm ci --prefix hack/node --ignore-scripts \
   && npm ci --omit=dev --ignore-scripts; \
    fi \
 && cp hack/node/node_modules/node-linux-*/bin/node /usr/local/bin/node \
 && node -e ' \
      const { packages } = require("./package-lock.json"); \
      for (const [folder, { dev }] of Object.entries(packages)) if (dev) fs.rmSync(folder, { recursive: true, force: true })' \
 && rm -rf node_modules/.[!.]* node_modules/package.json \
 && find node_modules -type d -empty -delete

FROM base AS server
RUN apt-get update \
 && apt-get install -y --no-install-recommends e2fsprogs xfsprogs dosfstools btrfs-progs ntfs-3g \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=modules /usr/local/bin/node /usr/local/bin/node
WORKDIR /app
COPY --from=modules /app/node_modules node_modules
COPY LICENSE package.json ./
COPY crds crds
COPY server server
# The user's id is a number, so that Kubernetes can see that it is not root.
RUN install -d -o 10809 -g 10809 /exports
# By their names the programs are found in any pod, whatever the entrypoint of its image.
RUN chmod 755 server/main.ts && ln -s /app/server/main.ts /usr/local/bin/ondemand-disk
USER 10809:10809
VOLUME /exports
ENV UV_THREADPOOL_SIZE=32
EXPOSE 10809
STOPSIGNAL SIGTERM
ENTRYPOINT ["node", "--max-semi-space-size=2", "/app/server/main.ts"]
CMD ["serve", "--dir", "/exports", "--size", "1G", "--listen", "*:10809"]

# Everything: server and operator. Kubernetes runs all its pods from this one image.
FROM server AS operator
USER 0
COPY operator operator
RUN chmod 755 operator/main.ts && ln -s /app/operator/main.ts /usr/local/bin/ondemand-disk-operator \
 && install -d -o 10809 -g 10809 .compile-cache
USER 10809:10809
# Each program, run once, leaves its compiled code here: it starts in half the time, in two thirds of the memory. The
# cache is the user's own, by his number, and may be read-only afterwards.
ENV NODE_COMPILE_CACHE=/app/.compile-cache
RUN printf '%s' '{"apiVersion":"ondemanddisk.dev/v1alpha1","kind":"OnDemandDisk","metadata":{"name":"x","uid":"x"},"spec":{"size":"1Mi"}}' \
      >/tmp/disk.json \
 && ondemand-disk make --dir /tmp/disks --manifest /tmp/disk.json \
 && timeout -s TERM 4 ondemand-disk serve --dir /tmp/disks --disks /tmp/disks --no-create --listen 127.0.0.1:0 >/dev/null 2>&1; \
    ondemand-disk-operator run --image x --kubeconfig /nowhere --lease-namespace x >/dev/null 2>&1; \
    ondemand-disk-operator agent --pool x --namespace x --kubeconfig /nowhere >/dev/null 2>&1; \
    rm -rf /tmp/disks /tmp/disk.json
ENTRYPOINT ["ondemand-disk-operator"]
CMD ["run"]

# The agent, or `namegate run`, in a container. It needs NET_ADMIN (agent) or SYS_ADMIN as well (run), and the host's network for an agent:
#   docker run --network host --cap-add NET_ADMIN -v /etc/namegate:/etc/namegate namegate agent --config /etc/namegate/config.yaml
FROM node:24-bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends nftables iproute2 \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/namegate
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund
COPY LICENSE README.md ./
COPY bin bin
COPY src src
COPY zones zones
RUN ln -s /opt/namegate/bin/namegate /usr/local/bin/namegate
ENTRYPOINT ["namegate"]
CMD ["--help"]

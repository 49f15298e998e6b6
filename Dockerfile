# docker build -t dpo-lora .
# docker run --rm -v "$PWD:/work" dpo-lora train -c run.yaml
# For a GPU use a base image with cuBLASLt, such as nvidia/cuda:12.8.1-runtime-ubuntu24.04, and `--gpus all`.
ARG RUNTIME=debian:bookworm-slim

FROM rust:1.89-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo install --locked --path . --root /out

FROM ${RUNTIME}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin/dpo-lora /usr/local/bin/dpo-lora
WORKDIR /work
ENTRYPOINT ["dpo-lora"]

# The service with its weights inside: nothing is downloaded when it runs, and there is no torch.
#   docker build -t facespace .
#   docker run --rm -v facespace:/data facespace serve key create --role admin
#   docker run -d --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
#     -v facespace:/data -p 127.0.0.1:8000:8000 facespace
# Everything that changes lies in /data: the gallery, the service's own state, networks made ready for this processor.
FROM debian:trixie-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv
COPY . /src
# Add qdrant, video or cjk where they are needed; scripts/image_size.sh tells what each costs.
ARG EXTRAS=serve,mqtt,postgres,encryption,heif
RUN python3 -m venv /opt/facespace \
    && /opt/facespace/bin/python -m pip install --no-cache-dir "/src[$EXTRAS]" \
    && /opt/facespace/bin/python -m pip uninstall -y pip

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin facespace \
    && install -d -o facespace -g facespace -m 0700 /data
COPY --from=build /opt/facespace /opt/facespace
ENV PATH=/opt/facespace/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FACESPACE_HOME=/data/models \
    FACESPACE_GALLERY=/data/people.gallery
WORKDIR /data
VOLUME /data
USER 10001:10001
EXPOSE 8000
# A process that hangs does not answer; one that shuts down answers until its last request is done.
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/facespace/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["facespace"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# The dashboard on the CPU, on port 8501:
#
#     docker build --build-arg TORCH_INDEX=<the index URL that PyTorch's install page names for CPU> -t dsae-core .
#     docker run --rm -p 127.0.0.1:8501:8501 -v dsae:/data dsae-core
#
# Without TORCH_INDEX the build fetches torch with its CUDA libraries, several GB. The first stage has the compiler, the
# second only what it made. The default model is fetched on the first run, into /data, and finished runs are kept there.

FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ARG TORCH_INDEX=
ENV DSAE_BUILD=1 DSAE_CUDA=0 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What changes seldom comes first, so that a change of the sources fetches nothing again.
COPY Makefile requirements.txt ./
RUN make runtime VENV=/opt/dsae TORCH_INDEX="$TORCH_INDEX"
COPY setup.py pyproject.toml README.md LICENSE ./
COPY csrc csrc
COPY dsae_core dsae_core
RUN /opt/dsae/bin/pip install --no-build-isolation --no-deps .

FROM python:3.12-slim
COPY --from=build /opt/dsae /opt/dsae
RUN useradd --create-home dsae && install --directory --owner=dsae /data
USER dsae
WORKDIR /home/dsae
ENV PATH=/opt/dsae/bin:$PATH DSAE_CACHE=/data/cache DSAE_DATA=/data/runs
VOLUME /data
EXPOSE 8501
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health')"]
CMD ["sh", "-c", "dsae models fetch smollm2-135m && exec dsae app --address 0.0.0.0 --port 8501 --headless"]

# The API: no torch, no image library.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1
WORKDIR /srv/idefiq
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY idefiq idefiq
RUN pip install --constraint constraints.txt --editable '.[api]'
COPY db db
COPY workers/__init__.py workers/broker.py workers/settings.py workers/
COPY api api

RUN useradd --system --uid 10001 idefiq
USER 10001
ENV IDEFIQ_HOST=0.0.0.0 IDEFIQ_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz')"]
CMD ["python", "-m", "api", "serve"]

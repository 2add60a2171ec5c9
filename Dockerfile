# One image for all processes: docker run … serve | ingest | journal | keeper. Servers and settings come from outside.

FROM python:3.11-slim-bookworm AS packages
RUN python -m venv /venv
COPY config/requirements.txt .
RUN /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin availability
COPY --from=packages /venv /venv
COPY ledger /app/ledger
COPY availability /app/availability
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 AVAILABILITY_API_HOST=0.0.0.0
# The folder's bytecode is made here, because the user who runs it may write nothing.
RUN python -m compileall -q /app
WORKDIR /app
USER 10001
EXPOSE 8000
ENTRYPOINT ["python", "-m", "availability"]
CMD ["serve"]

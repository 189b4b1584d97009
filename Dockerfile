# docker build -t learnpruner . && docker run learnpruner      trains, exports and evaluates: make run
# docker run learnpruner make test                             the test suite
# docker run -v "$PWD/logs:/learnpruner/logs" learnpruner make run ARGS="prune_ratio=0.11"   leaves the run's folder outside
FROM python:3.12-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /learnpruner
COPY Makefile pyproject.toml requirements.lock README.md LICENSE ./
RUN mkdir learnpruner && touch learnpruner/__init__.py && make .venv/.installed
COPY . .
CMD ["make", "run"]

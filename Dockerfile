# docker build -t dalle . && docker run -v "$PWD/out:/dalle/out" dalle --text "a red heart"
FROM python:3.12-slim
WORKDIR /dalle
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[unclip]"
ENTRYPOINT ["python", "sample.py"]

"""The whole of it, from the site's pages to the answering endpoint; each line is one retryable step."""

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.logs import speak_clearly
from flows.parameters import RetrainParameters
from infra.files import alone
from infra.settings import read_settings
from tasks.evaluate import evaluate
from tasks.posters import download_posters
from tasks.preprocess import preprocess
from tasks.records import RetrainRecord
from tasks.redeploy import redeploy
from tasks.register import register
from tasks.scrape import scrape
from tasks.train import train
from tasks.upload import upload


@flow(name="retrain", persist_result=False, on_running=[speak_clearly])
def retrain(parameters: RetrainParameters) -> "State[RetrainRecord]":
    """Scrape, train, and put the new model before users if it is better than the present one."""
    with alone(read_settings().workspace):
        catalogue = scrape(parameters.site_url, parameters.seasons, parameters.collect)
        posters = download_posters(catalogue, parameters.collect)
        dataset = preprocess(catalogue, posters, parameters.preprocess)
        training = train(dataset, parameters.train)
        evaluation = evaluate(dataset, training)
        model = register(dataset, training, evaluation)
        deployment = redeploy(dataset, evaluation, model, upload(model)) if evaluation.better else None
    record = RetrainRecord(
        catalogue=catalogue,
        posters=posters,
        dataset=dataset,
        training=training,
        evaluation=evaluation,
        model=model,
        deployment=deployment,
    )
    if deployment is None:
        return Completed(name="Champion kept", message=f"champion kept: {evaluation.reason}", data=record)
    return Completed(message=f"version {model.version} is live: {evaluation.reason}", data=record)

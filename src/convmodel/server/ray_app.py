"""The server as a Ray Serve application: replicas on one machine or many, behind one address.

Owns: how many replicas there are, how many requests each takes, and that a conversation stays with its replica.

    serve run convmodel.server.ray_app:build model=builtin:chitchat max_replicas=4
"""

import os

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, RequestRouterConfig
from starlette.types import ASGIApp

from convmodel.generation.engine.engine import MAX_ROWS
from convmodel.model import ConversationModel
from convmodel.server.app import create_app
from convmodel.server.serving.model_registry import Service
from convmodel.server.settings import KEY_VARIABLE, LOOPBACK, ServerSettings


class RayArguments(BaseModel):
    """What `serve run` may be told, as `name=value`, or under `args` in a configuration file.

    Attributes:
        model: A folder that all machines see, a hub id, or `builtin:chitchat`.
        name: What clients call it.
        min_replicas: How many there are at least.
        max_replicas: How many there may be.
        cpus: Cores of each replica.
        gpus: Devices of each replica.
        quantize: `int8`, on CPUs.
        hosts: Names that a Host header may have, with commas between; `*` for any, where there is a key.
        system_messages: Whether system messages are taken by a model that was trained without.
        cache_memory: MiB for what each replica remembers of conversations; a quarter of its weights.
    """

    model_config = ConfigDict(extra="forbid")

    model: str
    name: str = "model"
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(2, ge=1)
    cpus: float = Field(1.0, gt=0)
    gpus: float = Field(0.0, ge=0)
    quantize: str | None = None
    hosts: str = ",".join(LOOPBACK)
    system_messages: bool = False
    cache_memory: int | None = Field(None, ge=1)


def build(arguments: RayArguments) -> serve.Application:
    """Makes the application: replicas that come and go with the number of requests in work.

    A replica takes as many requests as share its steps, and as many again that wait; more wait at the proxy, and
    beyond that they are refused with 429, as by one server. `CONVMODEL_API_KEY` names the key, if one is needed.
    """
    keys = tuple(filter(None, [os.environ.get(KEY_VARIABLE)]))
    settings = ServerSettings(
        api_keys=keys,
        hosts=tuple(each.strip() for each in arguments.hosts.split(",")),
        max_queue=MAX_ROWS,
        system_messages=arguments.system_messages,
        cache_bytes=None if arguments.cache_memory is None else arguments.cache_memory * 2**20,
    )

    def make() -> ASGIApp:
        # Before the replica says that it is there, so that none is asked in vain.
        model = ConversationModel.from_pretrained(arguments.model, quantize=arguments.quantize)
        return create_app(Service(lambda: {arguments.name: model}, settings))

    deployment = serve.deployment(
        serve.ingress(make)(),
        name="convmodel",
        autoscaling_config=AutoscalingConfig(
            min_replicas=arguments.min_replicas,
            max_replicas=arguments.max_replicas,
            target_ongoing_requests=MAX_ROWS / 2,
        ),
        max_ongoing_requests=2 * MAX_ROWS,
        max_queued_requests=ServerSettings().max_queue,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=2),
        request_router_config=RequestRouterConfig(
            request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
        ),
        ray_actor_options={"num_cpus": arguments.cpus, "num_gpus": arguments.gpus},
    )
    return deployment.bind()

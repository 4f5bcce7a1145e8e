"""The server as a Ray Serve application: replicas on one machine or many, behind one address.

Owns: the number of replicas, the number of requests per replica, and routing a conversation to the same replica.

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
from convmodel.server.middleware import listed_hosts
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.settings import KEY_VARIABLE, LOOPBACK, ServerSettings


class RayArguments(BaseModel):
    """The arguments of `serve run`, as `name=value`, or under `args` in a configuration file."""

    model_config = ConfigDict(extra="forbid")

    model: str  # a folder that all machines can read, a Hub id, or `builtin:chitchat`
    name: str = "model"  # the model's id for clients
    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(2, ge=1)
    cpus: float = Field(1.0, gt=0)  # cores per replica
    gpus: float = Field(0.0, ge=0)  # GPUs per replica
    quantize: str | None = None  # `int8`, on CPUs
    hosts: str = ",".join(LOOPBACK)  # allowed names in the Host header, with commas; `*` for any, if there is a key
    system_messages: bool = False  # whether a model that was trained without system messages accepts them
    cache_memory: int | None = Field(None, ge=1)  # MiB per replica; by default a quarter of the weights


def build(arguments: RayArguments) -> serve.Application:
    """Returns the application, which starts and stops replicas with the number of running requests.

    A replica takes as many requests as fit in one batch, and as many again that wait; more wait at the proxy, and
    beyond that they are refused with 429, as by a single server. `CONVMODEL_API_KEY` is the key, if one is needed.

    Raises:
        ConfigError: If `hosts` names none, or is `*` without a key.
    """
    keys = tuple(filter(None, [os.environ.get(KEY_VARIABLE)]))
    settings = ServerSettings(
        api_keys=keys,
        hosts=listed_hosts(arguments.hosts, has_key=bool(keys)),
        max_queue=MAX_ROWS,
        system_messages=arguments.system_messages,
        cache_bytes=None if arguments.cache_memory is None else arguments.cache_memory * 2**20,
    )

    def make_app() -> ASGIApp:
        # Loaded before the replica reports that it is ready, so that no request is refused.
        model = ConversationModel.from_pretrained(arguments.model, quantize=arguments.quantize)
        return create_app(ModelRegistry(lambda: {arguments.name: model}, settings))

    deployment = serve.deployment(
        serve.ingress(make_app)(),
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

from typing import Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Weather(BaseModel):
    city: str
    sky: Literal["clear", "cloudy", "rain"]


model = OpenAIChatModel("chitchat", provider=OpenAIProvider(base_url="http://127.0.0.1:8000/v1", api_key="none"))
print(Agent(model).run_sync("Hello!").output)
print(Agent(model, output_type=NativeOutput(Weather)).run_sync("How is the weather?").output)

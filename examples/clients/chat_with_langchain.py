from typing import Literal

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else a small model adds fields of its own
    city: str
    sky: Literal["clear", "cloudy", "rain"]


model = ChatOpenAI(model="chitchat", base_url="http://127.0.0.1:8000/v1", api_key="none", stream_usage=True)
for chunk in model.stream("Hello!"):
    print(chunk.content, end="", flush=True)
print(model.with_structured_output(Weather).invoke("How is the weather?"))

from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid")  # else a small model adds fields of its own
    city: str
    sky: Literal["clear", "cloudy", "rain"]


client = instructor.from_openai(
    OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none"),
    mode=instructor.Mode.JSON_SCHEMA,  # the schema is not part of the prompt, which a small model has little room for
)
messages = [{"role": "user", "content": "How is the weather?"}]
print(client.chat.completions.create(model="chitchat", messages=messages, response_model=Weather))

"""Says what a JSON Schema (draft-07) finds wrong with documents, by a validator that we did not write.

Reads {"schema": ..., "documents": [...]} from stdin, prints a list: for each document its first error, or null.
"""

import json
import sys

from jsonschema import Draft7Validator
from jsonschema.exceptions import best_match

given = json.load(sys.stdin)
Draft7Validator.check_schema(given["schema"])
validator = Draft7Validator(given["schema"])
errors = (best_match(validator.iter_errors(document)) for document in given["documents"])
json.dump([error and f"{error.json_path}: {error.message}" for error in errors], sys.stdout)

//! What may be written? One JSON Schema of all kinds, made from the types that read them, so that an editor completes what
//! there is and marks what there is not.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::document::credential::CredentialSpec;
use crate::document::inbound::InboundSpec;
use crate::document::issuer::IssuerSpec;
use crate::document::outbound::OutboundSpec;
use crate::document::policy_test::PolicyTestSpec;
use crate::document::{API_VERSION, Kind};

/// A DNS label, as names are.
const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// JSON Schema draft-07, which editors understand best. Fields and values that this version refuses are left out.
pub fn schema() -> Value {
    // In line, since editors show the names of definitions, which are those of our types.
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.with_transform(WithoutNull).into_generator();
    let kinds: Vec<(Kind, Value)> =
        Kind::ALL.into_iter().map(|kind| (kind, spec(kind, &mut generator))).collect();
    let names: Vec<&str> = kinds.iter().map(|(kind, _)| kind.as_str()).collect();
    let conditions: Vec<Value> = kinds.iter().map(|(kind, spec)| condition(*kind, spec)).collect();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Countersign policy",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "const": API_VERSION },
            "kind": { "enum": names },
            "metadata": {},
            "spec": {},
            "status": { "description": "Written by Kubernetes." },
        },
        "additionalProperties": false,
        "allOf": conditions,
    })
}

fn spec(kind: Kind, generator: &mut SchemaGenerator) -> Value {
    match kind {
        Kind::Issuer => of::<IssuerSpec>(generator),
        Kind::Credential => of::<CredentialSpec>(generator),
        Kind::OutboundPolicy => of::<OutboundSpec>(generator),
        Kind::InboundPolicy => of::<InboundSpec>(generator),
        Kind::PolicyTest => of::<PolicyTestSpec>(generator),
    }
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
    let mut schema = generator.root_schema_for::<T>();
    schema.remove("$schema");
    schema.remove("title");
    schema.to_value()
}

/// A document of this kind looks so.
fn condition(kind: Kind, spec: &Value) -> Value {
    json!({
        "if": { "properties": { "kind": { "const": kind.as_str() } }, "required": ["kind"] },
        "then": { "properties": { "metadata": metadata(kind), "spec": spec } },
    })
}

/// The name, and what the API server of Kubernetes adds.
fn metadata(kind: Kind) -> Value {
    let mut properties = json!({ "name": { "type": "string", "pattern": NAME } });
    let added = [
        "labels",
        "annotations",
        "resourceVersion",
        "uid",
        "generation",
        "creationTimestamp",
        "managedFields",
        "ownerReferences",
        "finalizers",
    ];
    if let Some(properties) = properties.as_object_mut() {
        if kind != Kind::Issuer {
            let namespace = json!({ "type": "string", "pattern": NAME, "description": "`default` where it is left out." });
            properties.insert("namespace".to_owned(), namespace);
        }
        properties.extend(added.map(|name| (name.to_owned(), json!({}))));
    }
    json!({ "type": "object", "properties": properties, "required": ["name"], "additionalProperties": false })
}

/// Optional fields may be left out, not left empty; and what is left out leaves nothing behind.
#[derive(Clone)]
struct WithoutNull;

// === impl WithoutNull ===

impl Transform for WithoutNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(values)) = object.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        // The words of an enum that are left out may leave an alternative without any.
        if let Some(Value::Array(alternatives)) = object.get_mut("oneOf") {
            alternatives.retain(|schema| schema.get("enum") != Some(&json!([])));
        }
        if let Some(Value::Array(mut any)) = object.remove("anyOf") {
            any.retain(|schema| schema != &json!({ "type": "null" }));
            match any.as_slice() {
                [Value::Object(only)] => object.extend(only.clone()),
                _ => {
                    object.insert("anyOf".to_owned(), any.into());
                }
            }
        }
        // What a field is if it is left out is in its description; a `null` there is not.
        if object.get("default").is_some_and(Value::is_null) {
            object.remove("default");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_types_and_nothing_is_null() {
        let text = schema().to_string();
        assert!(!text.contains("\"null\"") && !text.contains("null,") && !text.contains("[]"), "{text}");
        assert!(!text.contains("$ref"), "{text}");
        let schema = schema();
        let rule = &schema["allOf"][3]["then"]["properties"]["spec"]["properties"]["rules"]["items"];
        assert_eq!(rule["additionalProperties"], false);
        assert_eq!(rule["required"], json!(["name"]));
        assert!(rule["properties"]["public"]["description"].as_str().unwrap().contains("without a token"));
        let spec = &schema["allOf"][3]["then"]["properties"]["spec"]["properties"];
        assert!(spec.get("tls").is_some() && spec.get("mtls").is_none(), "not supported by this version");
    }
}

//! How PEFT names modules that are trained whole, and the scalar heads of its sequence classifiers.

use serde_json::{Map, Value};

/// Path of the scalar head in an adapter file, without `base_model.model.`.
pub const SCORE: &str = "score";

/// PEFT's `task_type` of an adapter with this head.
pub const TASK: &str = "SEQ_CLS";

/// The other name of such a head, which PEFT writes beside it in `modules_to_save`.
const OTHER: &str = "classifier";

/// Writes `modules_to_save` to a configuration, and the task of a scalar head if it is among them.
pub(super) fn save(config: &mut Value, mut whole: Vec<Value>) {
    if whole.iter().any(|name| name == SCORE) {
        config["task_type"] = TASK.into();
        // PEFT names both heads of its sequence classifiers, whichever the model has.
        whole.insert(0, OTHER.into());
    }
    if !whole.is_empty() {
        config["modules_to_save"] = whole.into();
    }
}

/// Removes such heads from a configuration's `modules_to_save`, and the key if nothing is left. Returns whether there were any.
pub fn take_heads(config: &mut Map<String, Value>) -> bool {
    let Some(Value::Array(names)) = config.get_mut("modules_to_save") else { return false };
    let all = names.len();
    names.retain(|name| name != SCORE && name != OTHER);
    let (found, is_empty) = (names.len() < all, names.is_empty());
    if found && is_empty {
        config.remove("modules_to_save");
    }
    found
}

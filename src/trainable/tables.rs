//! What may be trained of one table, the embedding or the head, at once.

use super::Adapter;
use crate::error::{Error, Result};
use crate::ops::frozen_linear::Linear;

/// Checks that no table is trained in two ways. `weight` gives the weight of a module: a head that is tied to the embedding
/// has the embedding's own.
///
/// # Errors
/// [`Error::Config`], which names both keys and the remedy.
pub(super) fn check<'a>(adapters: &[Adapter], weight: &dyn Fn(&str) -> Option<&'a Linear>) -> Result<()> {
    let of = |is_wanted: fn(&Adapter) -> bool| -> Vec<&str> {
        adapters.iter().filter(|adapter| is_wanted(adapter)).map(Adapter::module).collect()
    };
    let whole = of(|adapter| matches!(adapter, Adapter::Whole(_)));
    if let Some(twice) = (1..whole.len()).find(|at| whole[..*at].contains(&whole[*at])) {
        return Err(Error::Config(format!(
            "lora.modules_to_save names {} twice; name it once",
            whole[twice]
        )));
    }
    for embedding in of(|adapter| matches!(adapter, Adapter::TokenRows(_))) {
        if whole.contains(&embedding) {
            return Err(Error::Config(format!(
                "module {embedding} is adapted twice: lora.modules_to_save trains all of it, and lora.trainable_token_indices some \
                 of its rows; remove one of the two keys"
            )));
        }
        let is_tied = |head: &&str| match (weight(head), weight(embedding)) {
            (Some(head), Some(embedding)) => std::ptr::eq(head, embedding),
            _ => false,
        };
        if let Some(head) = whole.iter().copied().find(is_tied) {
            return Err(Error::Config(format!(
                "lora.modules_to_save names {head}, and lora.trainable_token_indices trains rows of {embedding}, which this base \
                 uses as its head too (tie_word_embeddings): PEFT cannot load an adapter with both; remove {head} from \
                 lora.modules_to_save, or remove lora.trainable_token_indices"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Adapters, TokenRows, Whole};
    use super::*;
    use crate::ops::testing::noise_of;
    use crate::weights::FrozenWeight;

    fn table(seed: u64) -> Linear {
        Linear::new(FrozenWeight::from_f32(noise_of(15, seed), &[5, 3]).unwrap(), false, None)
    }

    fn whole(module: &str) -> Adapter {
        Whole::new(module.into(), (5, 3), false).into()
    }

    fn rows() -> Adapter {
        TokenRows::new("embed".into(), vec![4, 1], 3).into()
    }

    #[test]
    fn a_tied_head_and_rows_of_the_embedding_are_not_trained_together() {
        let (embedding, head) = (table(1), table(2));
        let begun = |all: Vec<Adapter>, tied: bool| {
            let head = if tied { &embedding } else { &head };
            Adapters::initialised_on(all, 1, |module| Some(if module == "embed" { &embedding } else { head }))
        };
        assert_eq!(begun(vec![whole("lm_head"), rows()], false).unwrap().len(), 2);
        assert_eq!(begun(vec![whole("lm_head"), whole("embed")], true).unwrap().len(), 2);
        let error = begun(vec![whole("lm_head"), rows()], true).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        for part in
            ["lora.modules_to_save names lm_head", "lora.trainable_token_indices", "remove lm_head from"]
        {
            assert!(message.contains(part), "{part} in {message}");
        }
    }

    #[test]
    fn a_module_that_is_trained_twice_names_the_keys() {
        let embedding = table(1);
        let said = |all: Vec<Adapter>| {
            Adapters::initialised_on(all, 1, |_| Some(&embedding)).unwrap_err().to_string()
        };
        let both = said(vec![whole("embed"), rows()]);
        for part in
            ["embed is adapted twice", "lora.modules_to_save", "lora.trainable_token_indices", "remove one"]
        {
            assert!(both.contains(part), "{part} in {both}");
        }
        assert!(
            said(vec![whole("embed"), whole("embed")]).contains("lora.modules_to_save names embed twice")
        );
        // An adapter's directory has the same keys in its configuration.
        let read = Adapters::zeros(vec![whole("embed"), rows()]).unwrap_err().to_string();
        assert!(read.contains("(modules_to_save)") && read.contains("(trainable_token_indices)"), "{read}");
    }
}

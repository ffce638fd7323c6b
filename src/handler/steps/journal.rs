//! The steps of one run: what earlier attempts have saved, and what this one has begun.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::SystemTime,
};

use bytes::Bytes;

use super::StepError;
use crate::store::{Claim, Saved, Step, StoreError, StoreFuture};

/// Saves steps under claims of one instance.
pub(crate) trait SaveSteps {
    /// Whether the store can save steps.
    fn can_save(&self) -> bool;

    /// Saves a step, patiently. A claim that the store has lost is restored.
    fn save<'a>(&'a self, claim: &'a Claim, step: &'a Step) -> StoreFuture<'a, Saved>;
}

/// The steps of one run.
pub(crate) struct Journal {
    store: Rc<dyn SaveSteps>,
    /// The steps that the store has.
    saved: RefCell<Vec<Step>>,
    /// The names that this run has used.
    used: RefCell<Vec<Box<str>>>,
    /// The handler has returned.
    has_ended: Cell<bool>,
    /// A step has found that another owner has taken over.
    is_superseded: Cell<bool>,
}

/// A step, as the store knows it.
pub(super) enum Known {
    Nothing,
    Started,
    Done(Bytes),
}

/// The name of a step that runs. It can be used again when the step has failed.
pub(super) struct Turn<'a> {
    journal: &'a Journal,
    name: &'a str,
    is_done: bool,
}

impl Journal {
    pub(crate) fn new(store: Rc<dyn SaveSteps>, saved: Vec<Step>) -> Self {
        let (saved, used) = (RefCell::new(saved), RefCell::default());
        Self { store, saved, used, has_ended: Cell::new(false), is_superseded: Cell::new(false) }
    }

    /// The handler has returned. Whether steps are saved.
    pub(in crate::handler) fn end(&self) -> bool {
        self.has_ended.set(true);
        !self.saved.borrow().is_empty()
    }

    pub(in crate::handler) const fn is_superseded(&self) -> bool {
        self.is_superseded.get()
    }

    /// Uses a name, and tells what is known of the step.
    pub(super) fn begin<'a>(&'a self, name: &'a str) -> Result<(Turn<'a>, Known), StepError> {
        let step = || Box::from(name);
        if self.has_ended.get() {
            return Err(StepError::Late { step: step() });
        }
        if !self.store.can_save() {
            return Err(StepError::Unsupported { step: step() });
        }
        let mut used = self.used.borrow_mut();
        if used.iter().any(|used| **used == *name) {
            return Err(StepError::Repeated { step: step() });
        }
        let saved = self.saved.borrow();
        let known = match saved.iter().find(|saved| *saved.name == *name) {
            Some(Step { result: None, .. }) => Known::Started,
            Some(Step { result: Some(result), .. }) if result.is_empty() => Known::Nothing,
            Some(Step { result: Some(result), .. }) => Known::Done(result.clone()),
            // Steps that are under way will be saved, too.
            None if saved.len() >= Step::MOST || name.len() > Step::MOST_BYTES => {
                return Err(StepError::Full { step: step() });
            }
            None => Known::Nothing,
        };
        used.push(step());
        Ok((Turn { journal: self, name, is_done: false }, known))
    }
}

impl Turn<'_> {
    /// Saves the step under the claim. It stays saved, whatever happens to this run.
    pub(super) async fn save(&self, claim: &Claim, step: Step) -> Result<(), StepError> {
        let name = || Box::from(self.name);
        if self.journal.has_ended.get() {
            return Err(StepError::Late { step: name() });
        }
        if step.result.as_ref().is_some_and(|result| result.len() > Step::MOST_BYTES) {
            return Err(StepError::Full { step: name() });
        }
        let step = step.at(Some(SystemTime::now()));
        match self.journal.store.save(claim, &step).await {
            Ok(Saved::Saved) => {
                let mut saved = self.journal.saved.borrow_mut();
                match saved.iter_mut().find(|saved| saved.name == step.name) {
                    Some(saved) => *saved = step,
                    None => saved.push(step),
                }
                Ok(())
            }
            Ok(Saved::Lost) => {
                self.journal.is_superseded.set(true);
                Err(StepError::Superseded { step: name() })
            }
            Ok(Saved::Full) if self.journal.saved.borrow().len() >= Step::MOST => Err(StepError::Full { step: name() }),
            Ok(Saved::Full) => Err(StepError::Unavailable { step: name(), source: StoreError::Full }),
            Ok(Saved::Gone) => {
                let source = StoreError::unavailable("the store has lost the record, and could not restore it");
                Err(StepError::Unavailable { step: name(), source })
            }
            Err(StoreError::Unsupported(_)) => Err(StepError::Unsupported { step: name() }),
            Err(source) => Err(StepError::Unavailable { step: name(), source }),
        }
    }

    /// The step has its result. Its name stays used.
    pub(super) fn end(mut self) {
        self.is_done = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.journal.used.borrow_mut().retain(|used| **used != *self.name);
        }
    }
}

//! A deck of classes, and a deck of the images of each.

use super::deck::{Dealer, Deck};

/// Classes in hands of P, and a hand of K images of each class that is dealt: a batch, or a part of one.
#[derive(Debug, Clone)]
pub(super) struct ClassDecks {
    /// Class by class, the images.
    members: Vec<Vec<usize>>,
    classes: Deck,
    images: Vec<Deck>,
}

impl ClassDecks {
    /// `p` classes × `k` images, both at least 1, of classes with at least one image. They use the streams from `stream`
    /// on: one, and one for each class.
    pub fn new(members: Vec<Vec<usize>>, [p, k]: [usize; 2], seed: u64, stream: u64) -> Self {
        let classes = Deck::new(members.len(), p, seed, stream);
        let images = members.iter().zip(stream + 1..).map(|(m, stream)| Deck::new(m.len(), k, seed, stream));
        Self { images: images.collect(), members, classes }
    }

    /// The number of classes.
    pub fn n_classes(&self) -> usize {
        self.members.len()
    }

    /// What comes after the first `hands` hands of classes.
    pub fn after(&self, hands: u128) -> ClassDealer<'_> {
        let images = self.images.iter().zip(self.classes.dealt(hands));
        ClassDealer {
            members: &self.members,
            classes: self.classes.after(hands),
            images: images.map(|(deck, hands)| deck.after(hands)).collect(),
        }
    }

    /// The batches of epoch `epoch`, each epoch having `batches` of one hand of classes.
    pub fn epoch(&self, epoch: u64, batches: usize) -> Vec<Vec<usize>> {
        let mut dealer = self.after(u128::from(epoch) * batches as u128);
        (0..batches).map(|_| dealer.hand()).collect()
    }
}

/// Deals classes and their images from some hand on.
#[derive(Debug)]
pub(super) struct ClassDealer<'a> {
    members: &'a [Vec<usize>],
    classes: Dealer,
    images: Vec<Dealer>,
}

impl ClassDealer<'_> {
    /// The images of the next hand of classes, those of a class side by side.
    pub fn hand(&mut self) -> Vec<usize> {
        let classes = self.classes.hand();
        let images = |class: usize| {
            let members = &self.members[class];
            self.images[class].hand().into_iter().map(|card| members[card])
        };
        classes.into_iter().flat_map(images).collect()
    }
}

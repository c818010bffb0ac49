"""Methods that pretrain, side by side: same images, budget, encoder and seeds for each of them."""

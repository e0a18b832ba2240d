"""global window number -> source, epoch, index."""

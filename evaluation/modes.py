import torch
def refine(local, z, n_steps=20, tol=1e-4):
    z=z.clone().double(); n=len(z)
    U,g,G=local(torch.arange(n),z)
    lam=torch.full((n,),1e-3,dtype=torch.float64)
    for _ in range(n_steps):
        dec=(g*torch.linalg.solve(G,g.unsqueeze(2)).squeeze(2)).sum(1)
        idx=(dec>tol).nonzero().squeeze(1)
        if not len(idx): break
        D=torch.diag_embed(G[idx].diagonal(dim1=1,dim2=2))
        step=torch.linalg.solve(G[idx]+lam[idx,None,None]*D,g[idx].unsqueeze(2)).squeeze(2)
        new=z[idx]-step
        u,gg,GG=local(idx,new)
        ok=u<U[idx]
        a=idx[ok]
        z[a]=new[ok];U[a]=u[ok];g[a]=gg[ok];G[a]=GG[ok]
        lam[a]/=5; lam[idx[~ok]]*=5
    return z,U,g,G
